"""The flow deployed from one file: no work pool, no `prefect.yaml`; this process starts the runs, until Ctrl-C.

Run it with `python -m orchestration.serve` beside `make up`.
"""

from orchestration.train import train_wine_quality

if __name__ == "__main__":
    train_wine_quality.serve(name="one-file", cron="0 4 * * *", parameters={"max_evals": 6}, limit=1)
