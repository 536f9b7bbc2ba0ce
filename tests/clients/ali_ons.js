// Produces and consumes with the pure JavaScript client `ali-ons`.
// Usage: node ali_ons.js HOST:PORT TOPIC SECONDS, with ali-ons in NODE_PATH.
//
// Exits with 0 only if everything arrived that was sent, and nothing else.
'use strict';

const { Consumer, Message, Producer } = require('ali-ons');

const [ nameSrv, topic, seconds ] = process.argv.slice(2);
const options = {
  nameSrv,
  // Asked only when no name server is given, but checked always.
  onsAddr: 'http://127.0.0.1:1/',
  httpclient: { request() { throw new Error('nothing should be fetched'); } },
  accessKeyId: 'unused',
  accessKeySecret: 'unused',
  logger: { info() {}, debug() {}, warn: console.log, error: console.log },
};

function subscribe(group, tag, got) {
  const consumer = new Consumer({ ...options, consumerGroup: group });
  consumer.on('error', error => console.log(`${group}: ${error.message}`));
  consumer.subscribe(topic, tag, async message => got.push(message.body.toString()));
  return consumer.ready();
}

async function produce() {
  const producer = new Producer({ ...options, producerGroup: 'ali-producer' });
  await producer.ready();
  const sent = { even: [], odd: [] };
  for (let n = 0; n < 20; n++) {
    const tag = n % 2 === 0 ? 'even' : 'odd';
    const message = new Message(topic, tag, `single ${n}`);
    message.keys = [ `key-${n}` ];
    const result = await producer.send(message);
    if (!result.msgId) throw new Error(`no id: ${JSON.stringify(result)}`);
    sent[tag].push(`single ${n}`);
  }
  return sent;
}

async function until(enough) {
  const deadline = Date.now() + Number(seconds) * 1000;
  while (!enough() && Date.now() < deadline) {
    await new Promise(done => setTimeout(done, 50));
  }
}

async function main() {
  const got = { all: [], even: [] };
  // This client starts a new group at the end of each queue: it must be there first.
  await subscribe('ali-all', '*', got.all);
  await subscribe('ali-even', 'even', got.even);
  const sent = await produce();
  const everything = sent.even.concat(sent.odd);
  await until(() => got.all.length >= everything.length && got.even.length >= sent.even.length);
  // What comes beside the wanted comes soon after.
  await new Promise(done => setTimeout(done, 500));
  for (const [ what, wanted, arrived ] of
    [[ 'push', everything, got.all ], [ 'push, filtered by tag', sent.even, got.even ]]) {
    if (JSON.stringify([ ...wanted ].sort()) !== JSON.stringify([ ...arrived ].sort())) {
      throw new Error(`${what}: sent ${wanted}, got ${arrived}`);
    }
    console.log(`${what}: ${arrived.length} messages`);
  }
  console.log('everything arrived');
}

main().then(() => process.exit(0), error => {
  console.log(error);
  process.exit(1);
});
