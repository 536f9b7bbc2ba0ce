// Retries with the pure JavaScript client `ali-ons`.
// Usage: node ali_ons_retries.js HOST:PORT TOPIC SECONDS, with ali-ons in NODE_PATH.
//
// Exits with 0 only if everything was processed, and what was refused came again.
'use strict';

const { Consumer, Message, Producer } = require('ali-ons');

const [ nameSrv, topic, seconds ] = process.argv.slice(2);
const COUNT = 12;
const options = {
  nameSrv,
  // Asked only when no name server is given, but checked always.
  onsAddr: 'http://127.0.0.1:1/',
  httpclient: { request() { throw new Error('nothing should be fetched'); } },
  accessKeyId: 'unused',
  accessKeySecret: 'unused',
  // Refusals are logged as errors.
  logger: { info() {}, debug() {}, warn() {}, error() {} },
};

async function main() {
  const attempts = {};
  const processed = [];
  const consumer = new Consumer({ ...options, consumerGroup: 'ali-retrying' });
  consumer.on('error', () => {});
  consumer.subscribe(topic, '*', async message => {
    const body = message.body.toString();
    attempts[body] = (attempts[body] || []).concat(message.reconsumeTimes);
    if (body === 'message 3' && attempts[body].length === 1) throw new Error('not now');
    processed.push(body);
  });
  // This client starts a new group at the end of each queue: it must be there first.
  await consumer.ready();
  const producer = new Producer({ ...options, producerGroup: 'ali-producer' });
  await producer.ready();
  const wanted = [];
  for (let n = 0; n < COUNT; n++) {
    await producer.send(new Message(topic, 'a', `message ${n}`));
    wanted.push(`message ${n}`);
  }
  const deadline = Date.now() + Number(seconds) * 1000;
  while (processed.length < COUNT && Date.now() < deadline) {
    await new Promise(done => setTimeout(done, 50));
  }
  // What comes beside the wanted comes soon after.
  await new Promise(done => setTimeout(done, 1000));
  if (JSON.stringify([ ...processed ].sort()) !== JSON.stringify([ ...wanted ].sort())) {
    throw new Error(`sent ${wanted}, processed ${processed}`);
  }
  if (JSON.stringify(attempts['message 3']) !== '[0,1]') {
    throw new Error(`attempts ${JSON.stringify(attempts)}`);
  }
  console.log('everything arrived');
}

main().then(() => process.exit(0), error => {
  console.log(error);
  process.exit(1);
});
