"""The property sheet, line by line."""

from keras_norm import LayerNormalization, matlab

UNBUILT = """\
  BatchNormalizationLayer with properties:

               Name: 'BN1'
        NumChannels: 'auto'

   Hyperparameters
          MeanDecay: 0.1000
      VarianceDecay: 0.1000
            Epsilon: 1.0000e-05

   Learnable Parameters
             Offset: []
              Scale: []

   State Parameters
        TrainedMean: []
    TrainedVariance: []

  Show all properties"""


def test_until_there_are_values():
    assert matlab.property_sheet(matlab.batchNormalizationLayer(Name="BN1")) == UNBUILT


def test_with_values():
    layer = matlab.batchNormalizationLayer(Name="BN1", TrainedMean=[[[1, 2, 3]]])
    expected = UNBUILT.replace("TrainedMean: []", "TrainedMean: [1×1×3 double]")  # noqa: RUF001
    assert matlab.property_sheet(layer) == expected
    layer.build((None, 3))
    expected = UNBUILT.replace("[]", "[3×1 single]").replace("'auto'", "3")  # noqa: RUF001
    assert matlab.property_sheet(layer) == expected
    layer = matlab.batchNormalizationLayer(Name="BN1")
    layer.build((None, 8, 8, 3))  # images
    expected = UNBUILT.replace("[]", "[1×1×3 single]").replace("'auto'", "3")  # noqa: RUF001
    assert matlab.property_sheet(layer) == expected


def test_of_a_group_normalization():
    layer = matlab.groupNormalizationLayer("channel-wise", Name="GN1", Epsilon=0.01)
    assert matlab.property_sheet(layer) == (
        "  GroupNormalizationLayer with properties:\n"
        "\n"
        "           Name: 'GN1'\n"
        "    NumChannels: 'auto'\n"
        "\n"
        "   Hyperparameters\n"
        "      NumGroups: 'channel-wise'\n"
        "        Epsilon: 0.0100\n"
        "\n"
        "   Learnable Parameters\n"
        "         Offset: []\n"
        "          Scale: []\n"
        "\n"
        "  Show all properties"
    )


def test_of_an_instance_normalization():
    sheet = matlab.property_sheet(matlab.instanceNormalizationLayer(Name="IN1"))
    assert sheet.startswith("  InstanceNormalizationLayer with properties:\n")
    assert "NumGroups" not in sheet


def test_of_a_layer_that_was_not_made_here():
    sheet = matlab.property_sheet(LayerNormalization(name="LN1", reduction_axes=-1, epsilon=1))
    assert "LayerNormalizationLayer with properties" in sheet
    assert "OperationDimension: 'channel-only'" in sheet
    assert "Epsilon: 1\n" in sheet


def test_matlab_s_name():
    assert matlab.display is matlab.property_sheet
