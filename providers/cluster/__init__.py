"""Other machines, reached through Ray: `[cluster] ray = "auto"`.

    settings.py     what the user says about the cluster, and what is wrong with it
    connection.py   the connection to Ray, and the nodes that it has
    asking.py       questions to every node, before anything is started there
    files.py        folders that a node sees, and folders that are sent to it
    places.py       room for one process on a node: asked for, waited for, given back

Only Ray's core is used: actors and placement groups. What the actors do is in the room of the
provider that has them.
"""
