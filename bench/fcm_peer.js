// The peer of the FCM benchmark: accepts every push at once, with the headers of Google's
// front ends and 100 streams a connection.
// Usage: node fcm_peer.js SERVER.PEM BLOCKS ; prints its port, and at the end what it has seen.
//
// It writes frames itself, since Node's HTTP/2 server would be slower than the clients that are
// measured. BLOCKS are its headers in hexadecimal: "indexed" for clients that keep HPACK's table
// and "literal" for those that do not, each the first block and the others, and "http1" for
// clients that do not offer h2. Headers of requests are not decoded: a body that is not JSON
// asks for an access token.
'use strict'
const fs = require('fs')
const tls = require('tls')

const PREFACE = 24
const DATA = 0
const HEADERS = 1
const SETTINGS = 4
const PING = 6
const WINDOW_UPDATE = 8
const END_STREAM = 1
const ACK = 1
const END_HEADERS = 4
const HEADER_TABLE_SIZE = 1
const DEFAULT_TABLE = 4096
const BRACE = 0x7b

const pem = fs.readFileSync(process.argv[2])
const unhex = (_, value) => typeof value === 'string' ? Buffer.from(value, 'hex') : value
const blocks = JSON.parse(process.argv[3], unhex)
const grant = Buffer.from(JSON.stringify({
  access_token: 'ya29.c.' + 'a'.repeat(1017), expires_in: 3599, token_type: 'Bearer'
}))
const seen = { pushes: 0, grants: 0, http2_connections: 0, http1_connections: 0 }

function accepted () {
  const number = String(++seen.pushes).padStart(16, '0')
  return Buffer.from(`{\n  "name": "projects/p/messages/0:${number}%31bd1c9731bd1c97"\n}\n`)
}

function frame (type, flags, stream, payload) {
  const bytes = Buffer.allocUnsafe(9 + payload.length)
  bytes.writeUIntBE(payload.length, 0, 3)
  bytes[3] = type
  bytes[4] = flags
  bytes.writeUInt32BE(stream, 5)
  payload.copy(bytes, 9)
  return bytes
}

const settings = Buffer.from([0, 3, 0, 0, 0, 100, 0, 4, 0, 16, 0, 0, 0, 6, 0, 1, 0, 0])

class Http2 {
  constructor (socket) {
    this.socket = socket
    this.rest = Buffer.alloc(0)
    this.preface = false
    this.blocks = blocks.indexed
    this.block = 0
    this.grants = new Set()
    socket.write(frame(SETTINGS, 0, 0, settings))
    this.grow(1 << 24)
  }

  // The client's window for the whole connection.
  grow (octets) {
    const payload = Buffer.alloc(4)
    payload.writeUInt32BE(octets)
    this.socket.write(frame(WINDOW_UPDATE, 0, 0, payload))
  }

  receive (bytes) {
    let data = this.rest.length ? Buffer.concat([this.rest, bytes]) : bytes
    if (!this.preface) {
      if (data.length < PREFACE) { this.rest = data; return }
      data = data.subarray(PREFACE)
      this.preface = true
    }
    const answers = []
    let consumed = 0
    let at = 0
    while (data.length - at >= 9) {
      const length = data.readUIntBE(at, 3)
      const end = at + 9 + length
      if (end > data.length) break
      if (data[at + 3] === DATA) consumed += length
      const stream = data.readUInt32BE(at + 5)
      this.take(data[at + 3], data[at + 4], stream, data.subarray(at + 9, end), answers)
      at = end
    }
    this.rest = data.subarray(at)
    if (answers.length) this.socket.write(Buffer.concat(answers))
    if (consumed) this.grow(consumed)
  }

  take (type, flags, stream, payload, answers) {
    if (type === DATA) {
      if (payload.length && payload[0] !== BRACE) this.grants.add(stream)
      if (flags & END_STREAM) this.answer(stream, answers)
    } else if (type === SETTINGS && !(flags & ACK)) {
      for (let at = 0; at < payload.length; at += 6) {
        const small = payload.readUInt32BE(at + 2) < DEFAULT_TABLE
        if (payload.readUInt16BE(at) === HEADER_TABLE_SIZE && small) this.blocks = blocks.literal
      }
      answers.push(frame(SETTINGS, ACK, 0, Buffer.alloc(0)))
    } else if (type === PING && !(flags & ACK)) {
      answers.push(frame(PING, ACK, 0, payload))
    }
  }

  answer (stream, answers) {
    const isGrant = this.grants.delete(stream)
    if (isGrant) seen.grants++
    answers.push(frame(HEADERS, END_HEADERS, stream, this.blocks[this.block]))
    answers.push(frame(DATA, END_STREAM, stream, isGrant ? grant : accepted()))
    this.block = 1
  }
}

class Http1 {
  constructor (socket) {
    this.socket = socket
    this.rest = Buffer.alloc(0)
    this.pushed = false
  }

  receive (bytes) {
    this.rest = this.rest.length ? Buffer.concat([this.rest, bytes]) : bytes
    const head = this.rest.indexOf('\r\n\r\n')
    if (head < 0) return
    const wanted = Number(/content-length: *(\d+)/i.exec(this.rest.toString('latin1', 0, head))[1])
    if (this.rest.length < head + 4 + wanted) return
    const isPush = this.rest[head + 4] === BRACE
    this.rest = this.rest.subarray(head + 4 + wanted)
    if (!isPush) seen.grants++
    if (isPush && !this.pushed) {
      this.pushed = true
      seen.http1_connections++
    }
    const body = isPush ? accepted() : grant
    const length = Buffer.from(`Content-Length: ${body.length}\r\n\r\n`)
    this.socket.write(Buffer.concat([blocks.http1, length, body]))
  }
}

const options = { key: pem, cert: pem, ALPNProtocols: ['h2', 'http/1.1'] }
const server = tls.createServer(options, (socket) => {
  socket.setNoDelay()
  socket.on('error', () => {}) // clients reset connections at their end
  const isHttp2 = socket.alpnProtocol === 'h2'
  if (isHttp2) seen.http2_connections++
  const connection = isHttp2 ? new Http2(socket) : new Http1(socket)
  socket.on('data', (bytes) => connection.receive(bytes))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.on('end', () => {
  const used = process.cpuUsage()
  console.log(JSON.stringify({ ...seen, cpu_s: (used.user + used.system) / 1e6 }))
  process.exit(0)
}).resume()
