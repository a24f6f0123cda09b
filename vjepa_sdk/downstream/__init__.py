"""Answers on frozen features: what is like a clip, what is there twice, what is like no other. Imports inference and
what lies below it."""
