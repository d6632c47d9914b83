"""A run's society behind OpenAI's chat API: `society serve NAME`.

    web.py        the application, the listener, the graceful stop
    access.py     the key, and who may ask without one
    chat.py       one request, from its body to its answer or its stream
    body.py       what a request may say, and what is refused
    forms.py      the served models: the whole debate, its first round, one agent, …
    society.py    the society itself, whose debates share the connections
    admission.py  how many requests are debated, how many wait
    answers.py    the objects and chunks that go back
    record.py     the turns in a database of their own, if the user asks for it
    metrics.py    figures for Prometheus

Starlette and uvicorn are imported here and nowhere above, so the command line stays light.
"""
