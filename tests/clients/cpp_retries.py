"""Retries and orderly consumption with the C++ client that the Python packages
`rocketmq` and `rocketmq-python-cvs` ship.

Usage: cpp_retries.py HOST:PORT ORDERED SPREAD SECONDS

The topic SPREAD needs a queue for each of the 12 messages, because this client
refuses all messages that it got with the one that was refused. Exits with 0 only if what was refused came again, as a retry where order does
not matter, and before anything else where it does.
"""

import sys
import threading
import time

from rocketmq.client import Message, Producer, PushConsumer, RecvMessage
from rocketmq.ffi import dll

from verdict import check, run, succeed

SERVER, ORDERED, SPREAD, SECONDS = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
DEADLINE = time.time() + SECONDS
COUNT = 12
# Not destroyed: after shutdown() that crashes some versions of the library.
KEPT = []


PROCESSED, LATER = 0, 1


class Refusing:
    """A callback that cannot process some messages at the first attempts. It is
    the library's own kind: what the package makes of an exception is not always
    a refusal."""

    def __init__(self, refusals):
        self.refusals = dict(refusals)
        self.processed = []
        self.attempts = {}
        self.topics = set()
        self.changed = threading.Condition()

    def __call__(self, _consumer, handle):
        received = RecvMessage(handle)
        body = received.body.decode()
        with self.changed:
            self.topics.add(received.topic)
            self.attempts.setdefault(body, []).append(received.reconsume_times)
            if self.refusals.get(body, 0) > 0:
                self.refusals[body] -= 1
                return LATER
            self.processed.append(body)
            self.changed.notify()
        return PROCESSED

    def wait(self, count):
        with self.changed:
            enough = lambda: len(self.processed) >= count
            self.changed.wait_for(enough, max(0, DEADLINE - time.time()))
        # What comes beside the wanted comes soon after.
        time.sleep(1)


def consume(group, topic, callback, orderly):
    consumer = PushConsumer(group, orderly=orderly)
    consumer.set_namesrv_addr(SERVER)
    assert dll.Subscribe(consumer._handle, topic.encode(), b"*") == 0
    consumer._register_callback(callback)
    consumer.start()
    KEPT.append(consumer)


def produce():
    producer = Producer("cpp-producer")
    producer.set_namesrv_addr(SERVER)
    producer.start()
    KEPT.append(producer)
    bodies = [f"message {n}" for n in range(COUNT)]
    for n, body in enumerate(bodies):
        for topic, key in [(ORDERED, 1), (SPREAD, n)]:
            message = Message(topic)
            message.set_body(body)
            producer.send_orderly(message, key)
    return bodies


def main():
    bodies = produce()
    retried = Refusing({"message 3": 1, "message 7": 1})
    orderly = Refusing({"message 5": 2})
    consume("cpp-retrying", SPREAD, retried, False)
    consume("cpp-orderly", ORDERED, orderly, True)

    orderly.wait(COUNT)
    check(orderly.processed == bodies, f"out of order: {orderly.processed}")
    check(len(orderly.attempts["message 5"]) == 3, f"orderly: {orderly.attempts}")

    retried.wait(COUNT)
    check(sorted(retried.processed) == sorted(bodies), f"retried: {retried.processed}")
    for body in ["message 3", "message 7"]:
        check(retried.attempts[body] == [0, 1], f"{body}: {retried.attempts[body]}")
    check(retried.topics == {SPREAD}, f"topics as the application sees them: {retried.topics}")
    succeed("everything arrived")


run(main)
