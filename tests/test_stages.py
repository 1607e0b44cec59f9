"""The stages that a network is drawn as."""

from mura.models.stages import summarise

from mura.models import architectures


def test_the_stages_of_vgg16_are_those_of_its_paper():
    """Configuration D of table 1: two, two, three, three and three convolutions of 3 x 3."""
    widths, counts = (3, 64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
    image, *found, pooled, output = summarise("vgg16", 64)
    assert image == ("image", 64, 1, 0)
    assert [stage[:3] for stage in found] == [
        (f"stage {i + 1}\n{count} layers", 64 >> i, widths[i + 1]) for i, count in enumerate(counts)
    ]
    assert [stage[3] for stage in found] == [
        9 * before * width + width + (count - 1) * (9 * width * width + width)
        for before, width, count in zip(widths, widths[1:], counts, strict=False)
    ]
    assert (pooled, output) == (("mean", 1, 512, 0), ("abnormal", 1, 1, 513))


def test_squeeze_and_excitation_is_part_of_its_stage():
    """Its maps of one place stand between maps of many, and do not begin a stage each time."""
    found = summarise("efficientnet_v2_b0", 64)
    assert [height for _, height, _, _ in found] == [64, 32, 16, 8, 4, 2, 1, 1]
    parameters = architectures.build("efficientnet_v2_b0", 64).count_params()
    assert sum(stage[3] for stage in found) == parameters
