"""How fast models are: any configs, sizes and engines, timed against each other and the machine.

``models`` builds and prepares what is timed, ``engines`` runs it, ``worker`` is the process of one
model, ``run`` interleaves them, ``parts`` takes one apart, ``report`` prints.
"""
