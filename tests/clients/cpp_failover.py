"""Goes on while the leader of a replica set is killed, with the C++ client that
the Python packages `rocketmq` and `rocketmq-python-cvs` ship.

Usage: cpp_failover.py NAME_SERVER TOPIC SECONDS

Says `kill the leader` once it sends. Exits with 0 only if sending stopped for a
while, went on, and a consumer that was there all the time got everything that
was acknowledged, and nothing that was not sent.
"""

import sys
import threading
import time

from rocketmq.client import Message, Producer, PushConsumer

from verdict import check, run, succeed

SERVER, TOPIC, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
DEADLINE = time.time() + SECONDS
EACH = 100
# A send that takes longer met the dead leader.
INTERRUPTED = 0.3
# Not destroyed: after shutdown() that crashes some versions of the library.
KEPT = []


class Collector:
    """A push consumer's callback, called from the library's threads."""

    def __init__(self):
        self.got = set()
        self.changed = threading.Condition()

    def __call__(self, received):
        with self.changed:
            self.got.add(received.body.decode())
            self.changed.notify()

    def wait(self, wanted):
        with self.changed:
            enough = lambda: wanted <= self.got
            return self.changed.wait_for(enough, max(0, DEADLINE - time.time()))


class Sender:
    def __init__(self):
        self.producer = Producer("cpp-producer")
        self.producer.set_namesrv_addr(SERVER)
        self.producer.start()
        KEPT.append(self.producer)
        self.sent, self.acknowledged = set(), set()

    def send(self):
        """Whether it went as fast as ever. What fails may have been stored."""
        message = Message(TOPIC)
        body = f"message {len(self.sent)}"
        message.set_body(body)
        self.sent.add(body)
        began = time.time()
        try:
            if self.producer.send_sync(message).status != 0:
                return False
        except Exception as error:
            print(f"{body}: {error}", flush=True)
            time.sleep(0.2)
            return False
        self.acknowledged.add(body)
        return time.time() - began < INTERRUPTED

    def send_until(self, what, done):
        while not done():
            check(time.time() < DEADLINE, f"no {what} in time")
            self.send()


def main():
    got = Collector()
    consumer = PushConsumer("cpp-failing-over")
    consumer.set_namesrv_addr(SERVER)
    consumer.subscribe(TOPIC, got)
    consumer.start()
    KEPT.append(consumer)

    sender = Sender()
    sender.send_until("traffic", lambda: len(sender.acknowledged) >= EACH)
    print("kill the leader", flush=True)
    killed = time.time()
    while sender.send():
        check(time.time() < DEADLINE, "the leader's death was not felt")
    before = len(sender.acknowledged)
    sender.send_until("new leader", lambda: len(sender.acknowledged) > before)
    print(f"took messages again after {time.time() - killed:.1f} s", flush=True)
    sender.send_until("traffic", lambda: len(sender.acknowledged) >= before + EACH)

    arrived = got.wait(sender.acknowledged)
    missing = sorted(sender.acknowledged - got.got)
    check(arrived, f"{len(missing)} acknowledged and missing: {missing[:10]}")
    check(got.got <= sender.sent, f"never sent: {got.got - sender.sent}")
    print(f"got them after {time.time() - killed:.1f} s", flush=True)
    succeed("everything arrived")


run(main)
