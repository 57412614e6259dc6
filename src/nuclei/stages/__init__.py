"""The stages of the pipeline: each reads files of a run and writes files of a run. runs.stage_table lists them."""
