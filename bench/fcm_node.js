// The FCM benchmark with node:http2 as the client.
// Usage: node fcm_node.js PORT CA PUSHES IN_FLIGHT ; prints one JSON object.
'use strict'
const fs = require('fs')
const http2 = require('http2')
const { measure } = require('./pushes.js')

const [port, ca, count, inFlight] = process.argv.slice(2)
const ACCESS_TOKEN = 'ya29.c.' + 'a'.repeat(1017)

function makeMessage (number) {
  return {
    message: {
      token: `${String(number).padStart(22, '0')}:APA91b${'a'.repeat(134)}`,
      data: {
        type: 'call',
        unique_key: number.toString(16).padStart(32, '0'),
        phonenumber: '+31612345678',
        caller_id: 'Alice of Sales',
        response_api: 'https://middlewared.example/api/call-response/',
        message_start_time: (Date.now() / 1000).toFixed(7),
        attempt: '1',
        vg_cid: 'call-7'
      },
      android: { priority: 'HIGH', ttl: '4.000s' }
    }
  }
}

class Client {
  constructor (url, options) {
    this.session = http2.connect(url, options)
    this.headers = {
      ':method': 'POST',
      ':path': '/v1/projects/p/messages:send',
      authorization: `Bearer ${ACCESS_TOKEN}`,
      'content-type': 'application/json; charset=UTF-8'
    }
  }

  // The name of the accepted message.
  send (message) {
    return new Promise((resolve, reject) => {
      const request = this.session.request(this.headers)
      let status = 0
      let body = ''
      request.setEncoding('utf8')
      request.on('response', (headers) => { status = headers[':status'] })
      request.on('data', (text) => { body += text })
      request.on('error', reject)
      request.on('end', () => {
        if (status !== 200) return reject(new Error(`${status}: ${body}`))
        resolve(JSON.parse(body).name)
      })
      request.end(JSON.stringify(message))
    })
  }
}

async function main () {
  const client = new Client(`https://localhost:${port}`, { ca: fs.readFileSync(ca) })
  const send = (number) => client.send(makeMessage(number)).catch(() => '')
  await measure(send, Number(count), Number(inFlight))
  client.session.close()
}

main().catch((error) => { console.error(error); process.exit(1) })
