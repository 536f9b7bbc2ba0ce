"""Transactions with the C++ client that the Python package `rocketmq-python-cvs`
ships. The package does not wrap them, so this calls the library's C functions.

Usage: cpp_transactions.py HOST:PORT TOPIC SECONDS

Prints `restart the broker` between a half and its decision and goes on when the
broker is back. Exits with 0 only if what was committed arrived, once, and
nothing else.
"""

import ctypes
import sys
import threading
import time

from rocketmq.client import Message, PushConsumer
from rocketmq.ffi import _CSendResult, _CStatus, dll

from verdict import fail, run, succeed

SERVER, TOPIC, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
DEADLINE = time.time() + SECONDS
COMMIT, ROLLBACK, UNKNOWN = 0, 1, 2

DECIDE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
dll.CreateTransactionProducer.argtypes = [ctypes.c_char_p, DECIDE, ctypes.c_void_p]
dll.CreateTransactionProducer.restype = ctypes.c_void_p
dll.SendMessageTransaction.argtypes = [
    ctypes.c_void_p, ctypes.c_void_p, DECIDE, ctypes.c_void_p, ctypes.POINTER(_CSendResult),
]
dll.SendMessageTransaction.restype = _CStatus


class Transactions:
    """What became of each transaction, by its message's body."""

    def __init__(self):
        self.outcomes = {}
        self.checked = []
        self.changed = threading.Condition()
        # Kept, because the library calls them until the process ends.
        self.on_check = DECIDE(self.check)
        self.on_execute = DECIDE(self.execute)
        self.local = UNKNOWN
        self.producer = dll.CreateTransactionProducer(b"cpp-transactions", self.on_check, None)
        assert dll.SetProducerNameServerAddress(self.producer, SERVER.encode()) == 0
        assert dll.StartProducer(self.producer) == 0

    def send(self, body, local, outcome):
        """`local` is what the producer says at once, `outcome` what it answers
        when it is asked."""
        self.outcomes[body], self.local = outcome, local
        message = Message(TOPIC)
        message.set_tags("paid")
        message.set_body(body)
        result = _CSendResult()
        sent = dll.SendMessageTransaction(
            self.producer, message._handle, self.on_execute, None, ctypes.byref(result)
        )
        assert sent == 0 and result.sendStatus == 0, (sent, result.sendStatus)

    def execute(self, _producer, _message, _data):
        return self.local

    def check(self, _producer, message, _data):
        body = dll.GetMessageBody(message).decode()
        with self.changed:
            self.checked.append(body)
            self.changed.notify()
        return self.outcomes.get(body, ROLLBACK)

    def wait_for_checks(self, bodies):
        with self.changed:
            enough = lambda: set(bodies) <= set(self.checked)
            self.changed.wait_for(enough, max(0, DEADLINE - time.time()))
        if not enough():
            fail(f"asked for {self.checked}, not for all of {bodies}")


def collect():
    got = []
    consumer = PushConsumer("cpp-transacted")
    consumer.set_namesrv_addr(SERVER)
    consumer.subscribe(TOPIC, lambda message: got.append(message.body.decode()))
    consumer.start()
    return consumer, got


def main():
    transactions = Transactions()
    for n in range(5):
        transactions.send(f"committed {n}", COMMIT, COMMIT)
        transactions.send(f"rolled back {n}", ROLLBACK, ROLLBACK)
    transactions.send("committed later", UNKNOWN, COMMIT)
    transactions.send("rolled back later", UNKNOWN, ROLLBACK)
    consumer, got = collect()
    transactions.wait_for_checks(["committed later", "rolled back later"])

    transactions.send("committed after the restart", UNKNOWN, COMMIT)
    transactions.send("rolled back after the restart", UNKNOWN, ROLLBACK)
    print("restart the broker", flush=True)
    transactions.wait_for_checks(["committed after the restart", "rolled back after the restart"])

    wanted = sorted(body for body, outcome in transactions.outcomes.items() if outcome == COMMIT)
    while len(got) < len(wanted) and time.time() < DEADLINE:
        time.sleep(0.05)
    # What comes beside the wanted comes soon after.
    time.sleep(2)
    if sorted(got) != wanted:
        fail(f"committed {wanted}, got {sorted(got)}")
    succeed(f"{len(transactions.checked)} checks; everything arrived")


run(main)
