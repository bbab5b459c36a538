"""For all tests: torchvision, which some libraries of the tests bring along, can be imported beside a CPU torch."""

from fewtoon.io.torchvision import declare_operators

declare_operators()
