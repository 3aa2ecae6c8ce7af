"""Programs of the record that are not rebuilt, and why."""

LEFT_OUT = {
    "MovieReviews_Keras": "rebuilt, but the repair does not help: with its dropout, less is learned in seven epochs",
    "51930566": "rebuilt, but the repair does not help; the record says so too",
    "58609115": "rebuilt, but the repair does not help within 1,500 steps: neither twin tells 69 classes apart",
    "Traffic-Sign-Classifier": "rebuilt, but the repair does not help: with a sigmoid first, less is learned",
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
    "50481178": "the record itself says that the program is worse once patched",
    "59282996": "the record has a patch of labels alone: no recurrent layers, no data",
    "kaggle-melbourne_properties": "the patch makes the network configurable, but changes no activation",
}
