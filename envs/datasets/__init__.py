"""Data that does not come with lamer: where it is fetched, how files at hand are taken in, whether a folder is whole.

    definition.py   what a dataset is: its official files, how arriving files are chosen, how a folder is examined
    webshop.py, alfworld.py   the two that there are
    download.py     one file over HTTP: resumed where it was cut off, checked by its hash
    arrival.py      folders and archives as a stream of files; whatever would leave its folder is refused
    ledger.py       the hashes of what arrived, kept in the dataset's folder
    filling.py      fetch and place, on the above: nothing half-arrived is ever seen in a dataset's folder

`lamer data` calls `filling` and `definition`; environments only ask `envs.data` where their files are.
"""
