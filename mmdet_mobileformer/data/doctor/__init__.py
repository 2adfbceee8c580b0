"""The doctor: what is wrong with the installed stack and the data, before epoch 0.

`python -m mmdet_mobileformer doctor` runs all of it (:mod:`.command`), tools/train.py its quick part
(:func:`.examine.check_before_training`). Nothing is imported here: the doctor also runs where a
package of the stack does not import.
"""
