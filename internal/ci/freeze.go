package ci

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Freeze is a time at which nothing is deployed to an environment: once, from From to Until, or every week or day.
type Freeze struct {
	// Reason is shown to whom it stops.
	Reason string `json:"reason"`
	// From and Until bound a freeze that happens once.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Start and End bound one that comes again: "fri 16:00" and "mon 08:00" every week, "18:00" and "08:00" every day.
	Start string `json:"start,omitempty"`
	End   string `json:"end,omitempty"`
	// Zone is the time zone of Start and End, and of what is shown, such as Europe/Berlin; empty means UTC.
	Zone string `json:"zone,omitempty"`
	// Override are who may let a deployment pass all the same.
	Override []string `json:"override,omitempty"`
}

// Check returns what is wrong with f, in one sentence.
func (f Freeze) Check() error {
	if _, err := f.location(); err != nil {
		return err
	}
	if len(f.Override) > maxRules || len(f.Reason) > 500 {
		return fmt.Errorf("a freeze has a reason of at most 500 bytes, and at most %d who may override it", maxRules)
	}
	once, again := !f.From.IsZero() || !f.Until.IsZero(), f.Start != "" || f.End != ""
	switch {
	case once == again:
		return fmt.Errorf("a freeze has either a first and a last moment, or a start and an end that come again")
	case once:
		if !f.From.Before(f.Until) {
			return fmt.Errorf("a freeze ends after it begins, not from %s until %s", f.From.Format(time.RFC3339), f.Until.Format(time.RFC3339))
		}
		return nil
	}
	start, err := parseWeekTime(f.Start)
	if err != nil {
		return err
	}
	end, err := parseWeekTime(f.End)
	if err != nil {
		return err
	}
	if (start.day == everyDay) != (end.day == everyDay) {
		return fmt.Errorf("a freeze from %q to %q names a day for one of them only; name it for both, or for none", f.Start, f.End)
	}
	if start == end {
		return fmt.Errorf("a freeze from %q to %q would never end", f.Start, f.End)
	}
	return nil
}

func (f Freeze) location() (*time.Location, error) {
	if f.Zone == "Local" || len(f.Zone) > 100 {
		return nil, fmt.Errorf("%.100q is no time zone; use one such as Europe/Berlin", f.Zone)
	}
	zone, err := time.LoadLocation(f.Zone)
	if err != nil {
		return nil, fmt.Errorf("%q is no time zone; use one such as Europe/Berlin", f.Zone)
	}
	return zone, nil
}

// Ends returns when the freeze that holds at now ends, in its time zone; ok is false if none holds. f was checked.
func (f Freeze) Ends(now time.Time) (end time.Time, ok bool) {
	zone, err := f.location()
	if err != nil {
		return time.Time{}, false
	}
	if f.Start == "" {
		return f.Until.In(zone), !now.Before(f.From) && now.Before(f.Until)
	}
	from, err := parseWeekTime(f.Start)
	if err != nil {
		return time.Time{}, false
	}
	until, err := parseWeekTime(f.End)
	if err != nil {
		return time.Time{}, false
	}
	local := now.In(zone)
	for back := range 8 { // the newest start first
		start, fits := from.on(local, -back)
		if !fits || now.Before(start) {
			continue
		}
		for ahead := range 9 {
			end, fits := until.on(start, ahead)
			if fits && end.After(start) {
				return end, now.Before(end)
			}
		}
	}
	return time.Time{}, false
}

// FrozenUntil returns the freeze that holds at now and when deployments may go on: at the end of it, or of others that
// follow it at once. Those of which skip is true do not count.
func FrozenUntil(freezes []Freeze, now time.Time, skip func(Freeze) bool) (first Freeze, end time.Time, frozen bool) {
	at := now
	for range 100 { // those that never leave a gap must not keep us
		found := false
		for _, f := range freezes {
			until, ok := f.Ends(at)
			if !ok || skip != nil && skip(f) {
				continue
			}
			if !frozen {
				first, frozen = f, true
			}
			found, at, end = true, until, until
			break
		}
		if !found {
			break
		}
	}
	return first, end, frozen
}

// everyDay is the day of a time that comes every day.
const everyDay = time.Weekday(-1)

// weekTime is a time of the week, or of each day.
type weekTime struct {
	day          time.Weekday
	hour, minute int
}

var weekTimePattern = regexp.MustCompile(`^(?:([A-Za-z]{3,9}) +)?([0-9]{1,2}):([0-9]{2})$`)

func parseWeekTime(text string) (weekTime, error) {
	wrong := fmt.Errorf(`%q is no time; write "fri 16:00", or "16:00" for every day`, text)
	m := weekTimePattern.FindStringSubmatch(text)
	if m == nil {
		return weekTime{}, wrong
	}
	t := weekTime{day: everyDay}
	t.hour, _ = strconv.Atoi(m[2])
	t.minute, _ = strconv.Atoi(m[3])
	if t.hour > 23 || t.minute > 59 {
		return weekTime{}, wrong
	}
	if m[1] == "" {
		return t, nil
	}
	for day := time.Sunday; day <= time.Saturday; day++ {
		if strings.HasPrefix(strings.ToLower(day.String()), strings.ToLower(m[1])) {
			t.day = day
			return t, nil
		}
	}
	return weekTime{}, wrong
}

// on returns t on the day that is some days after that of at, if it is on that day of the week.
func (t weekTime) on(at time.Time, days int) (time.Time, bool) {
	when := time.Date(at.Year(), at.Month(), at.Day()+days, t.hour, t.minute, 0, 0, at.Location())
	return when, t.day == everyDay || when.Weekday() == t.day
}
