"""Names, captions and attributes for objects that people have marked, in the format that came in.

`sources` pictures with their objects · `questions` what is asked of each · `session_answers`,
`endpoint_answers` who answers · `run`, `workers` the journal that a killed run goes on from · `review` which
answers to look at first · `writing`, `coco_out`, `tree_out`, `label_studio_out` each format out · `table`,
`report` for people.
"""
