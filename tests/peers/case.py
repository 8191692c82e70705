"""A case of a conformance script: one line of JSON for each, which the program that started the script counts."""

import json
import traceback


def case(kind, name, run):
    """Runs a case; it fails with any exception."""
    why = None
    try:
        run()
    except Exception as error:
        why = f"{name}: {error!r} at {traceback.extract_tb(error.__traceback__)[-1].lineno}"
    print(json.dumps({"class": kind, "why": why}), flush=True)


def check(condition, found):
    """Fails the case, and says what was found instead."""
    if not condition:
        raise AssertionError(found)
