"""Servers that a run starts itself, answers from and stops: `[serving] engine = "vllm"`.

    settings.py        what the user says about the server, and what is wrong with it
    environment.py     what is installed in the server's own environment, found without importing it
    engines.py         the command line of each engine, with what makes its answers equal ours
    process.py         one process group: started, watched, ended with all its children
    server.py          a server on a port of its own with a key of its own, up or down
    planning.py        what servers have to hold, and what they will be started with
    nodes.py           what the nodes of a cluster can serve
    server_actor.py    a server on such a node, in a process of Ray
    cluster_server.py  servers on the nodes, seen from the run
    provider.py        training and answering in turns, with a server that may die

The engine lives in an environment of its own and is only spoken to over HTTP: it pins other
versions of torch and transformers than this project.
"""
