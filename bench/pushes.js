// What the clients on Node share; see pushes.py.
'use strict'

const WARM_UP = 2000

async function run (send, count, inFlight) {
  let next = 0
  let failed = 0
  const took = []
  async function work () {
    while (next < count) {
      const number = next++
      const began = performance.now()
      const accepted = await send(number)
      took.push(performance.now() - began)
      if (!accepted) failed++
    }
  }
  await Promise.all(Array.from({ length: inFlight }, work))
  return [took, failed]
}

// Print what pushes by `send` cost, which takes a number and resolves to whether it was accepted.
exports.measure = async function (send, count, inFlight) {
  await run(send, WARM_UP, inFlight)
  const before = process.memoryUsage().rss
  const wall = performance.now()
  const cpu = process.cpuUsage()
  const [took, failed] = await run(send, count, inFlight)
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
}
