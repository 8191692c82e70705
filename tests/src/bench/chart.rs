//! Rows as an SVG chart: horizontal bars in groups, one colour for a series. Pure.
//!
//! Colours and text hold on light and dark pages alike: the chart brings its own ground.

use std::fmt::Write as _;

/// A bar chart.
pub struct Chart<'c> {
    /// What it shows, with the unit.
    pub title: &'c str,
    /// Names of the series, in the order of a group's values.
    pub series: &'c [&'c str],
    /// A label and its values; none where a series has nothing here.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
    /// How a value is written beside its bar.
    pub label: fn(f64) -> String,
}

const WIDTH: f64 = 860.0;
const LABELS: f64 = 190.0;
const VALUES: f64 = 90.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;
const TOP: f64 = 62.0;
const COLOURS: [&str; 4] = ["#2f6f9f", "#6aa5c9", "#b4d3e6", "#d98c3f"];

impl Chart<'_> {
    /// The picture.
    pub fn svg(&self) -> String {
        let bars = |group: &(String, Vec<Option<f64>>)| group.1.iter().flatten().count() as f64;
        let height: f64 = TOP + self.groups.iter().map(|group| bars(group) * BAR + GAP).sum::<f64>() + GAP;
        let largest =
            self.groups.iter().flat_map(|(_, values)| values.iter().flatten().copied()).fold(0.0, f64::max);
        let scale = (WIDTH - LABELS - VALUES) / f64::max(largest, f64::MIN_POSITIVE);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"12\" y=\"24\" font-size=\"15\" fill=\"#222222\">{}</text>\n",
            escaped(self.title)
        );
        self.legend(&mut text);
        let mut y = TOP;
        for group in &self.groups {
            let middle = y + bars(group) * BAR / 2.0 + 4.0;
            let _ = writeln!(
                text,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" fill=\"#222222\">{}</text>",
                LABELS - 8.0,
                escaped(&group.0)
            );
            for (index, value) in group.1.iter().enumerate() {
                let Some(value) = value else { continue };
                let width = value * scale;
                let _ = writeln!(
                    text,
                    "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
                     <text x=\"{:.1}\" y=\"{}\" font-size=\"11\" fill=\"#444444\">{}</text>",
                    BAR - 2.0,
                    COLOURS[index % COLOURS.len()],
                    LABELS + width + 5.0,
                    y + BAR - 3.0,
                    escaped(&(self.label)(*value))
                );
                y += BAR;
            }
            y += GAP;
        }
        text + "</svg>\n"
    }

    fn legend(&self, text: &mut String) {
        let mut x = LABELS;
        for (index, name) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"46\" fill=\"#444444\">{}</text>",
                x + 16.0,
                escaped(name)
            );
            x += 34.0 + 7.0 * name.len() as f64;
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width_and_text_is_escaped() {
        let chart = Chart {
            title: "a < b",
            series: &["one", "two"],
            groups: vec![("first".to_owned(), vec![Some(2.0), None]), ("second".to_owned(), vec![Some(1.0)])],
            label: |value| format!("{value:.0}"),
        };
        let svg = chart.svg();
        let full = WIDTH - LABELS - VALUES;
        assert!(
            svg.contains(&format!("width=\"{full:.1}\""))
                && svg.contains(&format!("width=\"{:.1}\"", full / 2.0))
        );
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 2, "ground, legend, bars");
    }
}
