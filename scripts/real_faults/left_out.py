"""Programs of the record that are not rebuilt, and why."""

LEFT_OUT = {
    "39217567": "rebuilt, but the repair does not help within 1,500 steps: a permutation of bytes is learned late",
    "41600519": "rebuilt, but the repair does not help: inputs from -999 to 1000 stay as they are",
    "56380303": "rebuilt, but the repair does not help: the loss is larger with Adam at 0.0001",
    "31627380": "softmax over two classes with categorical cross-entropy, which the patch takes out, is no fault",
    "33969059": "the record itself says that no patch helps: targets of 1e4 and dropout on two units stay",
    "39810655": "the loss stays; only the encoding of its targets changes, of which PyTorch takes both",
    "41327601": "the record itself says that the program is worse once patched",
    "41372874": "the record itself says that nothing is wrong",
    "41947039": "the record has no patch",
    "42514960": "the record itself says that the loss is larger once patched",
    "46642627": "the record has optimizer and scaling alone: no layers, no data",
    "48594888": "five epochs are too few for colour photographs, and enough for anything that can be had offline",
    "50481178": "the record itself says that the program is worse once patched",
    "59282996": "the record has a patch of labels alone: no recurrent layers, no data",
    "MovieReviews_Keras": "four epochs are too few for film reviews, and enough for anything that can be had offline",
    "kaggle-melbourne_properties": "the patch makes the network configurable, but changes no activation",
}
