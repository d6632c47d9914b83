"""`society view`: a local web page on runs, rendered here; it changes no run.

A page is one function from a `Reader` to a frozen dataclass, asked off the event loop, and one
template. What models have said is text on every page, never markup: templates escape it,
`escape_invisible` names the characters that would hide or reorder text, and the pages' policy
allows no script but our own file.

A run's society can be asked there, too: `asking` holds its debates, and nothing of them is stored.

`society.view.endpoint` is the other server of this room: a run's society behind OpenAI's API.
"""
