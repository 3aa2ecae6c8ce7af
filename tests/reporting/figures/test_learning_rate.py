from lightning_gradtools.reporting.figures.learning_rate import planned_curve


def test_the_planned_curve_has_a_line_a_group_and_the_end_of_the_run():
    figure = planned_curve([0, 5, 10], {"group 0": [0.1, 0.2, 0.0], "group 1": [1.0, 2.0, 0.0]}, run_steps=8)
    (axes,) = figure.axes
    first, second, end = axes.lines
    assert [list(line.get_ydata()) for line in (first, second)] == [[0.1, 0.2, 0.0], [1.0, 2.0, 0.0]]
    assert list(end.get_xdata()) == [8, 8]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "group 0",
        "group 1",
        "end of the run",
    ]
