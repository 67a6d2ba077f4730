"""The embedded inference engine: SGLang's HTTP contract on a torch + transformers forward, for machines without a GPU.

    __main__.py     flags, exit codes, `python -m lamer.deploy.inference.embedded`
    server.py       aiohttp routes and lifetime;  auth.py: which key opens which route;  api.py: JSON bodies -> records
    engine.py       owner of everything below: submit, abort, pause, continue, weight updates, the step loop
    scheduler.py    continuous batching: waiting queue, admission, the next step, what a step's tokens finish
    table.py        running sequences as arrays, one row each;  sequence.py: one request's life and result
    cache.py        key/value rows;  prefix.py: which row holds which token prefix
    model.py        the packed forward of one step;  attention.py: its attention;  weights.py: loading in place
    decoder.py      the forward of Llama's relatives, without transformers' modules;  products.py: its matrix products
    sampling.py     tokens and log-probabilities of a whole step at once;  text.py: detokenising and stop strings

One step computes all its tokens (one for each decoding sequence, and chunks of new prompts) flat in one forward. All
state belongs to the event loop's thread; nothing here is shared between threads.
"""
