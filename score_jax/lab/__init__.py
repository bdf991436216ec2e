"""From settings to results: what turns the library into experiments with a folder.

settings ──build──▶ Experiment ──▶ train ──▶ run folder
                        │         sample ─▶ samples, pictures
                        └────────measure ─▶ evaluation

config = settings.get_config();  experiment = build.experiment(config)
trained = run.train(experiment, "runs/mine")
drawn, numbers = samples.draw_samples(trained, n=64), evaluation.evaluate(trained)
"""
