// The APNs benchmark with @parse/node-apn 8 as the client; run where that is installed.
// Usage: node apns_node.js PORT CERTIFICATE CA PUSHES IN_FLIGHT ; prints one JSON object.
'use strict'
const { createRequire } = require('module')
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

async function run (provider, count, inFlight) {
  let next = 0
  let failed = 0
  const took = []
  async function work () {
    while (next < count) {
      const number = next++
      const began = performance.now()
      const response = await provider.send(makeNote(number), number.toString(16).padStart(64, '0'))
      took.push(performance.now() - began)
      failed += response.failed.length
    }
  }
  await Promise.all(Array.from({ length: inFlight }, work))
  return [took, failed]
}

async function main () {
  const provider = new apn.Provider({
    cert: pem, key: pem, ca: [ca], address: 'localhost', port: Number(port), production: false
  })
  await run(provider, 2000, Number(inFlight))
  const before = process.memoryUsage().rss
  const wall = performance.now()
  const cpu = process.cpuUsage()
  const [took, failed] = await run(provider, Number(count), Number(inFlight))
  const used = process.cpuUsage(cpu)
  const wallS = (performance.now() - wall) / 1000
  took.sort((a, b) => a - b)
  console.log(JSON.stringify({
    pushes: took.length,
    failed,
    wall_s: wallS,
    cpu_s: (used.user + used.system) / 1e6,
    p50_ms: took[took.length >> 1],
    p99_ms: took[Math.floor(took.length * 0.99)],
    rss_kb: process.memoryUsage().rss / 1024,
    rss_before_kb: before / 1024
  }))
  provider.shutdown()
  setTimeout(() => process.exit(0), 100)
}

main().catch((error) => { console.error(error); process.exit(1) })
