"""The toy's config."""

from tests.toy.make_numbers import ToyConfig

config = ToyConfig(name="toy")
