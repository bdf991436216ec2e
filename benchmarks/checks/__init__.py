"""The stages of benchmarks/check_device.py."""
