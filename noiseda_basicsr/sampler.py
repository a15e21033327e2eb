"""A sampler that can continue in the middle of an epoch and gives every drawn sample a number of its own."""
from basicsr.data.data_sampler import EnlargedSampler


class SampleIndex(int):
    """Index of an image, with ``draw`` = (epoch, place in that epoch): the seed of everything random about it."""

    def __new__(cls, index, draw):
        self = super().__new__(cls, index)
        self.draw = draw
        return self

    def __getnewargs__(self):
        return int(self), self.draw


class ResumableSampler(EnlargedSampler):
    """BasicSR's EnlargedSampler (same order), yielding :class:`SampleIndex`, and able to skip what was seen."""

    resume_epoch = 0
    samples_seen = 0  # of resume_epoch, by this rank

    def __iter__(self):
        skip = self.samples_seen if self.epoch == self.resume_epoch else 0
        for place, index in enumerate(super().__iter__()):
            if place >= skip:
                yield SampleIndex(index, (self.epoch, place * self.num_replicas + self.rank))
