"""RecapD: detailed captions of regions, made anew in stages (RegionGPT, section on RecapD [P]).

    python -m data_recipes.recap run INPUT.jsonl --backend … --out DIR    ask; DIR/journal-1-of-1.jsonl grows
    python -m data_recipes.recap status DIR                               what the journals say
    python -m data_recipes.recap score DIR --clip FOLDER                  CLIP score of every caption
    python -m data_recipes.recap samples DIR --out NEW                    training samples

`README.md` beside this file has the whole story. One file a thing: `sources` what to caption · `wordings`
what is asked · `state` what the journal means · `run` the stages · `dry_run` the price beforehand ·
`clip_score` · `samples`. The journal is `rgpt.journal`; requests, their budget and what an answer is worth
are in `rgpt.asking`.
"""
