"""Steering: one model, the steerer, guides another, the TaskLLM, between writing code and reasoning in text.

texts.py         what each model is told, and how guidance is read
checks.py        running a program, its symbolic complexity, the answer checked by a program
env.py           the game as an Env: the steerer's reply is the move, the TaskLLM's answer the observation
trajectories.py  what a guided attempt was, and the file that keeps it
guide.py         records to trajectories: attempts, and other ways from where they failed
training.py      trajectories to demonstrations (SFT) and preferences (DPO)
"""
