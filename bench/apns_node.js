// The APNs benchmark with @parse/node-apn 8 as the client; run where that is installed.
// Usage: node apns_node.js PORT CERTIFICATE CA PUSHES IN_FLIGHT ; prints one JSON object.
'use strict'
const { createRequire } = require('module')
const { measure } = require('./pushes.js')
const apn = createRequire(process.cwd() + '/')('@parse/node-apn')

const [port, pem, ca, count, inFlight] = process.argv.slice(2)

function makeNote (number) {
  const note = new apn.Notification({
    aps: {},
    type: 'call',
    unique_key: number.toString(16).padStart(32, '0'),
    phonenumber: '+31612345678',
    caller_id: 'Alice of Sales',
    response_api: 'https://middlewared.example/api/call-response/',
    message_start_time: Date.now() / 1000,
    attempt: 1,
    vg_cid: 'call-7'
  })
  note.topic = 'com.voipgrid.vialer.voip'
  note.pushType = 'voip'
  note.priority = 10
  note.expiry = Math.floor(Date.now() / 1000) + 4
  return note
}

async function main () {
  const provider = new apn.Provider({
    cert: pem, key: pem, ca: [ca], address: 'localhost', port: Number(port), production: false
  })
  async function send (number) {
    const note = makeNote(number)
    const response = await provider.send(note, number.toString(16).padStart(64, '0'))
    return response.failed.length === 0
  }
  await measure(send, Number(count), Number(inFlight))
  provider.shutdown()
  setTimeout(() => process.exit(0), 100)
}

main().catch((error) => { console.error(error); process.exit(1) })
