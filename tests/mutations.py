"""Random damage to files that are read back, and what a reader may make of it."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling_jax.errors import UserError

MUTATIONS = 100


@st.composite
def damage(draw):
    """A function from bytes to other bytes."""
    kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "delete", "repeat", "zero"]))
    at, size = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40))
    bit, new = draw(st.integers(0, 7)), draw(st.binary(min_size=1, max_size=12))

    def apply(content):
        i = int(at * len(content))
        changed = {
            "flip": content[:i] + bytes([content[i] ^ 1 << bit]) + content[i + 1 :],
            "set": content[:i] + new + content[i + len(new) :],
            "cut": content[:i],
            "insert": content[:i] + new + content[i:],
            "delete": content[:i] + content[i + size :],
            "repeat": content[: i + size] + content[i:],
            "zero": content[:i] + bytes(len(content[i : i + size])) + content[i + size :],
        }
        return changed[kind]

    return apply


def mutated(test):
    """Runs a test with 100 mutations, the same ones every time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    options = {"max_examples": MUTATIONS, "deadline": None, "derandomize": True, "database": None}
    return settings(suppress_health_check=checks, **options)(given(change=damage())(test))


def outcome(read, *args):
    """The result of `read`, or None if it refuses in one line; any other exception fails the test."""
    try:
        return read(*args)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 800
        return None
