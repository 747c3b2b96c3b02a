// A Google built on Node's HTTP/2 (nghttp2), independent of our own and of Python's h2.
// Usage: node google.js SERVER.PEM ACCOUNT-PUBLIC-KEY.PEM [http/1.1] ; prints its port, then
// for each push that it accepted one line: HTTP version and token. ALPN chooses h2 or http/1.1;
// with the third argument it speaks HTTP/1.1 only. What a push meets is written in the first
// two digits of its token. Over HTTP/1.1, faults of streams are those of the connection.
'use strict'
const crypto = require('crypto')
const fs = require('fs')
const http2 = require('http2')
const https = require('https')

const pem = fs.readFileSync(process.argv[2])
const accountKey = fs.readFileSync(process.argv[3])
const onlyHttp1 = process.argv[4] === 'http/1.1'
const SEND = /^\/v1\/projects\/([^/]+)\/messages:send$/
const FCM_ERROR = 'type.googleapis.com/google.firebase.fcm.v1.FcmError'
const MOST_PINGS = 3
const { NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_REFUSED_STREAM } = http2.constants

const accessTokens = new Set()
const left = new Set()
let messages = 0

function answer(res, status, document, headers = {}) {
  res.writeHead(status, {
    'content-type': 'application/json; charset=UTF-8',
    vary: ['Origin', 'X-Origin', 'Referer'],
    server: 'scaffolding on HTTPServer2',
    'x-xss-protection': '0',
    'x-frame-options': 'SAMEORIGIN',
    'x-content-type-options': 'nosniff',
    'alt-svc': 'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000',
    ...headers,
  })
  res.end(JSON.stringify(document, null, 2))
}

function refuse(res, code, status, errorCode, headers) {
  const details = errorCode && [{ '@type': FCM_ERROR, errorCode }]
  answer(res, code, { error: { code, message: 'Simulated.', status, details } }, headers)
}

// RFC 7523: an assertion of the account, for this endpoint and the messaging scope.
function isGranted(form) {
  if (form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:jwt-bearer') return false
  const [head, claims, signature] = (form.get('assertion') || '').split('.')
  const signed = Buffer.from(`${head}.${claims}`)
  if (!crypto.verify('RSA-SHA256', signed, accountKey, Buffer.from(signature || '', 'base64url'))) return false
  const { aud, scope, iat, exp } = JSON.parse(Buffer.from(claims, 'base64url'))
  const now = Date.now() / 1000
  return aud.endsWith('/token') && scope.includes('firebase.messaging') && iat < now + 60 && exp > now && exp - iat <= 3600
}

function grant(res, body) {
  if (!isGranted(new URLSearchParams(body.toString()))) {
    return answer(res, 400, { error: 'invalid_grant', error_description: 'Invalid JWT.' })
  }
  const accessToken = `ya29.${crypto.randomBytes(24).toString('base64url')}`
  accessTokens.add(accessToken)
  answer(res, 200, { access_token: accessToken, expires_in: 3599, token_type: 'Bearer' })
}

function accept(res, project, token) {
  console.log(`${res.req.httpVersion} ${token}`)
  messages += 1
  answer(res, 200, { name: `projects/${project}/messages/0:${messages}%node` })
}

// Whether this is the first push with this token.
function isFirst(token) {
  if (left.has(token)) return false
  left.add(token)
  return true
}

const errors = {
  '01': (res) => refuse(res, 404, 'NOT_FOUND', 'UNREGISTERED'),
  '02': (res) => refuse(res, 503, 'UNAVAILABLE', 'UNAVAILABLE', { 'retry-after': '1' }),
  '03': (res) => refuse(res, 429, 'RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED'),
  '04': (res) => refuse(res, 403, 'PERMISSION_DENIED', 'SENDER_ID_MISMATCH'),
  '05': (res) => {
    res.writeHead(502, { 'content-type': 'text/html; charset=UTF-8' })
    res.end('<!DOCTYPE html><title>Error 502</title>')
  },
}

const faults = {
  '10': (stream) => stream.close(NGHTTP2_INTERNAL_ERROR),
  '11': (stream) => stream.session.destroy(),
  // The first time: the streams from this one on are not processed.
  '12': (stream, token, again) => {
    if (!isFirst(token)) return again()
    stream.session.lastId = stream.id - 2
    stream.session.goaway(0, stream.id - 2)
  },
  '13': (stream, token, again) => {
    stream.session.settings({ maxConcurrentStreams: 1, initialWindowSize: 16, headerTableSize: 0 })
    again()
  },
  '14': (stream) => {
    stream.additionalHeaders({ ':status': 103 })
    stream.respond({ ':status': 404, 'x-long': 'x'.repeat(20000) }, { waitForTrailers: true })
    stream.removeAllListeners('wantTrailers') // the response's own, which has no trailers
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-trailer': '1' }))
    stream.end(JSON.stringify({ error: { code: 404, status: 'NOT_FOUND', details: [{ '@type': FCM_ERROR, errorCode: 'UNREGISTERED' }] } }))
  },
  '15': (stream, token, again) => (isFirst(token) ? stream.close(NGHTTP2_REFUSED_STREAM) : again()),
  // Answers this push and those before it, and ends the connection.
  '16': (stream, token, again) => {
    again()
    stream.session.close()
  },
  '17': () => {},
}

function push(req, res, project, body) {
  const { message } = JSON.parse(body)
  const token = message.token || message.fid
  const kind = token.slice(0, 2)
  if (errors[kind]) return errors[kind](res)
  if (!faults[kind]) return accept(res, project, token)
  if (req.stream) return faults[kind](req.stream, token, () => accept(res, project, token))
  if (kind === '13') return accept(res, project, token)
  if (kind !== '17') req.socket.destroy()
}

function serve(req, res, body) {
  const send = SEND.exec(req.url)
  if (req.method === 'POST' && req.url === '/token') return grant(res, body)
  if (req.method !== 'POST' || !send) return refuse(res, 404, 'NOT_FOUND')
  if (!accessTokens.has((req.headers.authorization || '').replace('Bearer ', ''))) {
    return refuse(res, 401, 'UNAUTHENTICATED')
  }
  push(req, res, send[1], body)
}

function meet(req, res) {
  const body = []
  const session = req.stream && req.stream.session
  if (session) session.pings = 0
  req.on('error', () => {})
  res.on('error', () => {})
  req.on('data', (piece) => body.push(piece))
  req.on('end', () => {
    if (session && (req.stream.destroyed || req.stream.id > session.lastId)) return
    serve(req, res, Buffer.concat(body))
  })
}

// Google's front ends count PINGs without a request between them.
function watch(session) {
  session.pings = 0
  session.on('error', () => {})
  session.on('ping', () => {
    session.pings += 1
    if (session.pings < MOST_PINGS) return
    session.goaway(NGHTTP2_ENHANCE_YOUR_CALM, undefined, Buffer.from('too_many_pings'))
    session.destroy(undefined, NGHTTP2_ENHANCE_YOUR_CALM)
  })
}

const secure = { key: pem, cert: pem }
const settings = { maxConcurrentStreams: 3, initialWindowSize: 64, headerTableSize: 512 }
const server = onlyHttp1
  ? https.createServer(secure)
  : http2.createSecureServer({ ...secure, allowHTTP1: true, settings })
server.on('request', meet)
server.on('session', watch)
server.on('sessionError', () => {})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.on('end', () => process.exit(0)).resume()
