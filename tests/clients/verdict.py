"""How a client program ends, and what it says of it."""

import os


def fail(why):
    print(why, flush=True)
    os._exit(1)


def check(holds, why):
    if not holds:
        fail(why)


def run(main):
    """Exits with 0 if `main` returns, on the spot: the threads of the C++ library
    do not always end."""
    try:
        main()
    except BaseException as error:
        fail(f"{type(error).__name__}: {error}")
    os._exit(0)
