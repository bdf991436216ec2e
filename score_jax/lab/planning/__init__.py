"""What a training costs before anyone pays for a machine: `lab.plan` prints it.

compiled: memory, operations and exchanged bytes of a train step, from shapes alone;  flops: of a program's products;
liveness: values alive at once;  accelerators: what devices are said to do;  fitting: the largest batch;  planned: all
of it;  text: in words.
"""
