package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	plotWidth = 820
	barStart  = 170
	barHeight = 16
)

// plot draws CPU time per request of all contestants, and the latencies with and without refreshes.
func (r *results) plot() string {
	p := &plotter{y: 20}
	for _, s := range scenarios {
		if s.contestants == nil && r.Summary[s.name] != nil {
			p.bars(s.title+": µs of CPU per request", r.Summary[s.name])
		}
	}
	p.latencies(r.Rounds["refresh"])
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n", plotWidth, p.y+10, p.out.String())
}

// plotter draws from top to bottom.
type plotter struct {
	out strings.Builder
	y   int
}

func (p *plotter) text(x, y int, format string, args ...any) {
	fmt.Fprintf(&p.out, "<text x=\"%d\" y=\"%d\">%s</text>\n", x, y, fmt.Sprintf(format, args...))
}

func (p *plotter) title(text string) {
	fmt.Fprintf(&p.out, "<text x=\"10\" y=\"%d\" font-weight=\"bold\">%s</text>\n", p.y, text)
	p.y += 10
}

func (p *plotter) bars(title string, all []*summary) {
	p.title(title)
	most := slices.MaxFunc(all, func(a, b *summary) int { return int(a.CPU - b.CPU) }).CPU
	for _, c := range all {
		width := int(c.CPU / most * (plotWidth - barStart - 160))
		p.text(10, p.y+barHeight-4, "%s", c.Contestant)
		fmt.Fprintf(&p.out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", barStart, p.y, width, barHeight-2, color(c.Contestant))
		note := ""
		if c.CPURatio > 0 {
			note = fmt.Sprintf(" (%.2f of stock)", c.CPURatio)
		}
		p.text(barStart+width+6, p.y+barHeight-4, "%.1f%s", c.CPU, note)
		p.y += barHeight
	}
	p.y += 26
}

// latencies draws a line for each round, so that the difference can be compared with the noise.
func (p *plotter) latencies(rounds map[string][]*measurement) {
	if len(rounds) == 0 {
		return
	}
	p.title("Latency by percentile, in ms: blue without refreshes, orange with a refresh every 2 s; one line a round")
	const height = 220
	points := []string{"1", "5", "10", "25", "50", "75", "90", "95", "98", "99", "99.5", "99.9"}
	top := 0.0
	for _, all := range rounds {
		for _, m := range all {
			top = max(top, m.Percentiles["99.9"])
		}
	}
	step := (plotWidth - 80) / (len(points) - 1)
	bottom := p.y + height
	for contestant, all := range rounds {
		for _, m := range all {
			var line []string
			for i, point := range points {
				line = append(line, fmt.Sprintf("%d,%d", 50+i*step, bottom-int(m.Percentiles[point]/top*(height-10))))
			}
			fmt.Fprintf(&p.out, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\"/>\n", strings.Join(line, " "), color(contestant))
		}
	}
	for i, point := range points {
		p.text(40+i*step, bottom+16, "p%s", point)
	}
	for i := range 5 {
		value := top / 1000 * float64(i) / 4
		p.text(10, bottom-int(float64(i)/4*(height-10)), "%v", math.Round(value*10)/10)
	}
	p.y = bottom + 30
}

func color(contestant string) string {
	switch {
	case contestant == refreshing:
		return "#e08020"
	case strings.HasPrefix(contestant, "sidecar"):
		return "#2060c0"
	default:
		return "#a0a0a0"
	}
}
