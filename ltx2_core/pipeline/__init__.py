"""What happens to a clip, stage by stage: what each stage does and, beside it, what it needs.

A stage is one object that can be planned and run. It names the networks it works with and asks an engine for them; the
engine owns the card and never knows what a stage computes.
"""
