"""Produces and consumes with the C++ client that the Python packages `rocketmq`
and `rocketmq-python-cvs` ship.

Usage: cpp_client.py HOST:PORT TOPIC SECONDS stops|exits

Exits with 0 only if everything arrived that was sent, and nothing else.
With `stops` a group is also left and joined again.
"""

import sys
import threading
import time

from rocketmq.client import Message, Producer, PullConsumer, PushConsumer

from verdict import fail, run, succeed

SERVER, TOPIC, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
DEADLINE = time.time() + SECONDS
STOPS = sys.argv[4] == "stops"
# Not destroyed: after shutdown() that crashes some versions of the library.
KEPT = []


def message(body, tag):
    made = Message(TOPIC)
    made.set_keys("key-" + body[:20])
    made.set_tags(tag)
    made.set_property("colour", "blue")
    made.set_body(body)
    return made


class Collector:
    """A push consumer's callback, called from the library's threads."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.got = []
        self.colours = set()
        self.changed = threading.Condition()

    def __call__(self, received):
        with self.changed:
            self.got.append(received.body.decode())
            self.colours.add(received.get_property("colour"))
            self.changed.notify()

    def wait(self, what):
        with self.changed:
            enough = lambda: len(self.got) >= len(self.wanted)
            self.changed.wait_for(enough, max(0, DEADLINE - time.time()))
        # What comes beside the wanted comes soon after.
        time.sleep(0.5)
        compare(what, self.wanted, self.got)
        assert self.colours == {b"blue"}, f"{what}: properties {self.colours}"


def compare(what, wanted, got):
    wanted, got = sorted(wanted), sorted(got)
    if wanted != got:
        missing = [body[:30] for body in wanted if body not in got]
        extra = [body[:30] for body in got if got.count(body) > wanted.count(body)]
        fail(f"{what}: {len(missing)} missing: {missing}, {len(extra)} too many: {extra}")
    print(f"{what}: {len(got)} messages")


def push_consumer(group, expression, collector, orderly=False):
    consumer = PushConsumer(group, orderly=orderly)
    consumer.set_namesrv_addr(SERVER)
    consumer.subscribe(TOPIC, collector, expression)
    consumer.start()
    KEPT.append(consumer)
    return consumer


def produce():
    producer = Producer("cpp-producer")
    producer.set_namesrv_addr(SERVER)
    producer.start()
    KEPT.append(producer)
    sent = {"even": [], "odd": []}
    for n in range(20):
        tag = "even" if n % 2 == 0 else "odd"
        body = f"single {n}"
        result = producer.send_sync(message(body, tag))
        assert result.status == 0 and result.msg_id, result
        sent[tag].append(body)
    offsets = []
    for n in range(5):
        body = f"ordered {n}"
        offsets.append(producer.send_orderly(message(body, "odd"), 7).offset)
        sent["odd"].append(body)
    assert offsets == list(range(offsets[0], offsets[0] + 5)), f"one queue in order: {offsets}"
    # Beyond 4096 bytes the client compresses.
    large = "large " + "0123456789" * 1000
    producer.send_sync(message(large, "odd"))
    sent["odd"].append(large)
    batch = [f"batch {n}" for n in range(10)]
    result = producer.send_batch([message(body, "even") for body in batch])
    assert result.status == 0, result
    sent["even"] += batch
    producer.send_oneway(message("one way", "even"))
    sent["even"].append("one way")
    return sent


def pull_all():
    consumer = PullConsumer("cpp-pull")
    consumer.set_namesrv_addr(SERVER)
    consumer.start()
    KEPT.append(consumer)
    got = [received.body.decode() for received in consumer.pull(TOPIC)]
    return got


def rejoin(first):
    """What a group has processed stays processed."""
    first.shutdown()
    nothing = Collector([])
    again = push_consumer("cpp-all", "*", nothing)
    time.sleep(5)
    again.shutdown()
    compare("a later member of the same group", [], nothing.got)


def main():
    sent = produce()
    everything = sent["even"] + sent["odd"]
    all_of_it = Collector(everything)
    first = push_consumer("cpp-all", "*", all_of_it)
    all_of_it.wait("push")
    only_even = Collector(sent["even"])
    push_consumer("cpp-even", "even", only_even)
    only_even.wait("push, filtered by tag")
    compare("pull", everything, pull_all())
    if STOPS:
        rejoin(first)
    succeed("everything arrived")


run(main)
