"""Damaged files, at random and many, for every reader of foreign files: they are read, or refused in a line.

    mutations   what is done to the bytes of a good file: at random, and by who knows its format
    originals   the good files, made by functions or out of tests/data
    readers     what reads them, and how a case is laid out in a folder
    guard       what no case may do: run code, write elsewhere, hang, take memory out of all proportion
    cases       one case, by seed and number alone; its outcome
    __main__    all of them, in processes of their own: `python -m tests.fuzz`, `make fuzz`

It is of the tests rather than of the benchmarks: the files are the tests', made by their writers, and 300 of the cases
are in the suite (`tests/test_fuzz.py`).
"""
