// The peer of the APNs benchmark: HTTP/2 by Node (nghttp2), answers every push at once.
// Usage: node apns_peer.js SERVER.PEM CA.PEM ; prints its port, and at the end what it has seen.
'use strict'
const fs = require('fs')
const http2 = require('http2')

const seen = { pushes: 0, http2_connections: 0 }
const pem = fs.readFileSync(process.argv[2])
const server = http2.createSecureServer({
  key: pem,
  cert: pem,
  ca: fs.readFileSync(process.argv[3]),
  requestCert: true,
  rejectUnauthorized: true,
  settings: { maxConcurrentStreams: 1000, initialWindowSize: 65535 },
})
server.on('session', (session) => {
  seen.http2_connections++
  session.setLocalWindowSize(1 << 24)
})
server.on('stream', (stream, headers) => {
  seen.pushes++
  stream.on('error', () => {})
  stream.resume()
  stream.respond({ ':status': 200, 'apns-id': headers['apns-id'] }, { endStream: true })
})
server.on('sessionError', (error) => console.error(error.message))
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.on('end', () => {
  const used = process.cpuUsage()
  console.log(JSON.stringify({ ...seen, cpu_s: (used.user + used.system) / 1e6 }))
  process.exit(0)
}).resume()
