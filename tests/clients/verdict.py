"""How a client program ends, and what it says of it: on the spot, with the
library's objects left alone, for its threads do not always end and some of its
destructors crash."""

import os


def fail(why):
    print(why, flush=True)
    os._exit(1)


def succeed(what):
    print(what, flush=True)
    os._exit(0)


def check(holds, why):
    if not holds:
        fail(why)


def run(main):
    """`main` ends with `succeed` or `fail`."""
    try:
        main()
    except BaseException as error:
        fail(f"{type(error).__name__}: {error}")
    fail("it ended without a verdict")
