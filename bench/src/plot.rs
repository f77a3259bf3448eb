//! Plots as SVG, drawn by hand: bars and lines, each with the range of its rounds.

use std::fmt::Write as _;

use crate::stats::Spread;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 46.0;
const ROW: f64 = 24.0;
const COLOURS: [&str; 6] = [
    "#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#4a5568",
];

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: Spread,
    /// Which of the colours.
    pub(crate) colour: usize,
}

/// A line through some points.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, Spread)>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// 12345 as `12,345`; small figures with two decimals.
pub(crate) fn number(figure: f64) -> String {
    if figure < 10.0 {
        return format!("{figure:.2}");
    }
    if figure < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn head(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    )
}

/// Bars from left to right, one below the other, each with its median, and a thin line from
/// its lowest round to its highest.
pub(crate) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let height = TOP + ROW * bars.len() as f64 + 34.0;
    let most = bars.iter().map(|bar| bar.value.max).fold(1e-9, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let mut svg = head(height, title);
    for (at, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * at as f64;
        let (low, high) = (LEFT + bar.value.min * scale, LEFT + bar.value.max * scale);
        let middle = y + ROW / 2.0 - 2.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\n\
             <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"black\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            LEFT - 8.0,
            middle + 4.0,
            escape(&bar.label),
            bar.value.median * scale,
            ROW - 5.0,
            COLOURS[bar.colour % COLOURS.len()],
            high + 6.0,
            middle + 4.0,
            number(bar.value.median)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#555\">{}; the thin line goes from the lowest \
         round to the highest</text>\n</svg>\n",
        height - 10.0,
        escape(unit)
    );
    svg
}

/// Lines over the same x axis.
pub(crate) fn lines(title: &str, x_label: &str, y_label: &str, lines: &[Line]) -> String {
    const HEIGHT: f64 = 400.0;
    let (left, right, bottom) = (80.0, WIDTH - 190.0, HEIGHT - 56.0);
    let points = || lines.iter().flat_map(|line| &line.points);
    let most_x = points().map(|(x, _)| *x).fold(1e-9, f64::max);
    let most_y = points().map(|(_, y)| y.max).fold(1e-9, f64::max);
    let place_x = |x: f64| left + x / most_x * (right - left);
    let place_y = |y: f64| bottom - y / most_y * (bottom - TOP);
    let mut svg = head(HEIGHT, title);
    let _ = write!(
        svg,
        "<polyline points=\"{left},{TOP} {left},{bottom} {right},{bottom}\" fill=\"none\" \
         stroke=\"black\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
         <text x=\"12\" y=\"{:.1}\" fill=\"#555\">{}</text>\n",
        (left + right) / 2.0,
        HEIGHT - 14.0,
        escape(x_label),
        TOP - 8.0,
        escape(y_label)
    );
    for part in 1..=4 {
        let y = most_y * f64::from(part) / 4.0;
        let _ = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>\n",
            place_y(y),
            left - 6.0,
            place_y(y) + 4.0,
            number(y)
        );
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for x in ticks {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>",
            place_x(x),
            bottom + 16.0
        );
    }
    for (at, line) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", place_x(*x), place_y(y.median)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (x, y) in &line.points {
            let _ = write!(
                svg,
                "<circle cx=\"{0:.1}\" cy=\"{1:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n\
                 <line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{2:.1}\" y2=\"{3:.1}\" stroke=\"{colour}\"/>\n",
                place_x(*x),
                place_y(y.median),
                place_y(y.min),
                place_y(y.max)
            );
        }
        let y = TOP + 18.0 * at as f64 + 10.0;
        let _ = write!(
            svg,
            "<rect x=\"{0:.1}\" y=\"{1:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
             <text x=\"{2:.1}\" y=\"{3:.1}\">{4}</text>\n",
            right + 16.0,
            y - 10.0,
            right + 34.0,
            y,
            escape(&line.label)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (figure, text) in [
            (0.5, "0.50"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (1234567.0, "1,234,567"),
        ] {
            assert_eq!(number(figure), text);
        }
    }

    /// Every tag that is opened is closed, and nothing of a label is a tag.
    fn is_well_formed(svg: &str) {
        let count = |text: &str| svg.matches(text).count();
        assert_eq!(count("<svg"), count("</svg>"));
        assert_eq!(count("<text"), count("</text>"));
        let single = count("<rect") + count("<line ") + count("<circle") + count("<polyline");
        assert_eq!(count("/>"), single, "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn plots_are_well_formed_whatever_is_plotted() {
        let value = Spread::of([1.0, 2.0, 3.0]);
        let bar = |label: &str, value| Bar {
            label: label.to_owned(),
            value,
            colour: 9,
        };
        let some = bars(
            "a < b & c",
            "ops/s",
            &[bar("<x>", value), bar("", Spread::default())],
        );
        is_well_formed(&some);
        assert!(some.contains("&lt;x&gt;"), "{some}");
        is_well_formed(&bars("nothing", "", &[]));
        let line = Line {
            label: "arm".to_owned(),
            points: vec![(3.0, value), (6.0, Spread::default())],
        };
        is_well_formed(&lines("t", "x", "y", &[line]));
        is_well_formed(&lines("t", "x", "y", &[]));
    }
}
