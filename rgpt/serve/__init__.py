"""An OpenAI-compatible server for one RegionGPT.

A request's way: `app` (HTTP) → `protocol` (its form) → `conversation` (turns and a question) → `service`
(queue, picture, regions) → `sessions` (what is known already) → `engine` (the one thread that runs the model)
→ back as pieces of text. `many` is the form and the way of many regions at once, over the same service.
"""
