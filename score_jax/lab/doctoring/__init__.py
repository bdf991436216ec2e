"""What can be wrong before or between runs, a file for each place to look, and what mends it.

finding       a line: ok, note or wrong, what was looked at, what was found, and the command that mends it
packages      Python and the packages' versions; needs nothing that is installed
devices       what JAX sees of the devices that are there, and the variables that it heeds
compilations  the cache of compiled programs
sources       the data of a config, or those that are found without one
weights       networks of features, what fetches published checkpoints
memory_here disk surroundings   of the machine
folders       a run's folder
trained_toy   training and sampling, on the device in force

A check is given what it looks at, or how to look at it, and returns findings; none writes but into folders of its own.
"""
