// An Apple built on Node's HTTP/2 (nghttp2), independent of our own and of Python's h2.
// Usage: node apple.js SERVER.PEM CA.PEM ; prints its port, then one line for each push
// that it accepted. What a push meets is written in its token's first two digits.
'use strict'
const fs = require('fs')
const http2 = require('http2')

const pem = fs.readFileSync(process.argv[2])
const server = http2.createSecureServer({
  key: pem,
  cert: pem,
  ca: fs.readFileSync(process.argv[3]),
  requestCert: true,
  rejectUnauthorized: true,
  settings: { maxConcurrentStreams: 3, initialWindowSize: 64, headerTableSize: 512 },
})

const reasons = { '01': [400, 'BadTopic'], '02': [410, 'Unregistered'], '03': [503, 'ServiceUnavailable'] }

const left = new Set()

function accept(stream, headers, body) {
  JSON.parse(body)
  console.log(headers[':path'].slice('/3/device/'.length))
  stream.respond({ ':status': 200, 'apns-id': headers['apns-id'] }, { endStream: true })
}

const faults = {
  '10': (stream) => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR),
  '11': (stream) => stream.session.destroy(),
  // The first time: the streams from this one on are not processed.
  '12': (stream, headers, body) => {
    if (left.has(headers[':path'])) return accept(stream, headers, body)
    left.add(headers[':path'])
    stream.session.lastId = stream.id - 2
    stream.session.goaway(0, stream.id - 2)
  },
  '13': (stream, headers, body) => {
    stream.session.settings({ maxConcurrentStreams: 1, initialWindowSize: 16, headerTableSize: 0 })
    accept(stream, headers, body)
  },
  '14': (stream) => {
    stream.additionalHeaders({ ':status': 103 })
    stream.respond({ ':status': 400, 'x-long': 'x'.repeat(20000) }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-trailer': '1' }))
    stream.end(JSON.stringify({ reason: 'BadTopic' }))
  },
}

server.on('stream', (stream, headers) => {
  const kind = headers[':path'].slice('/3/device/'.length, '/3/device/'.length + 2)
  const body = []
  stream.on('error', () => {})
  stream.on('data', (piece) => body.push(piece))
  stream.on('end', () => {
    if (stream.destroyed || stream.id > stream.session.lastId) return
    if (faults[kind]) return faults[kind](stream, headers, Buffer.concat(body))
    if (!reasons[kind]) return accept(stream, headers, Buffer.concat(body))
    const [status, reason] = reasons[kind]
    stream.respond({ ':status': status })
    stream.end(JSON.stringify({ reason, timestamp: 5000 }))
  })
})
server.on('sessionError', () => {})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.on('end', () => process.exit(0)).resume()
