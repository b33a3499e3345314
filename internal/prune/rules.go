package prune

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Tag is a tag of a repository.
type Tag struct {
	Name   string
	Digest string
	// Time is when the image was made, or the tag put; zero if nobody knows.
	Time time.Time
	// Left is true if the tag has no image, but what an interrupted [Delete] put under it.
	Left bool
}

// Rules say what goes: a tag that Match chooses, that is not among the KeepLast newest of those, and that is older than
// OlderThan. Of KeepLast and OlderThan one may be missing, not both.
type Rules struct {
	// Match chooses tags; nil chooses all. Write ^ and $ for whole names.
	Match *regexp.Regexp
	// KeepLast is how many of the chosen tags stay whatever their age.
	KeepLast int
	// OlderThan is the age below which a tag stays; 0 means any age.
	OlderThan time.Duration
}

// Check says what is wrong with the rules.
func (r Rules) Check() error {
	switch {
	case r.KeepLast < 0:
		return fmt.Errorf("the number of tags to keep is %d", r.KeepLast)
	case r.OlderThan < 0:
		return fmt.Errorf("the age is %s", r.OlderThan)
	case r.KeepLast == 0 && r.OlderThan == 0:
		return errors.New("the rules name neither a number of tags to keep nor an age, and would delete all")
	}
	return nil
}

// Decision is what is to become of a tag.
type Decision struct {
	Tag
	Delete bool
	// Reason says why, as the end of a sentence.
	Reason string
}

// Decide returns a decision for each tag, newest first. A tag of unknown age stays, and does not count among the newest. What
// an interrupted Delete left goes, whatever its age: of the chosen tags, and of those that Delete itself makes.
func (r Rules) Decide(tags []Tag, now time.Time) []Decision {
	tags = slices.Clone(tags)
	slices.SortFunc(tags, func(a, b Tag) int { return cmp.Or(b.Time.Compare(a.Time), strings.Compare(a.Name, b.Name)) })
	decisions := make([]Decision, 0, len(tags))
	chosen := 0
	for _, tag := range tags {
		d := Decision{Tag: tag}
		age := now.Sub(tag.Time)
		switch {
		case tag.Left && strings.HasPrefix(tag.Name, probePrefix):
			d.Delete, d.Reason = true, "an earlier clean-up was interrupted that made it"
		case r.Match != nil && !r.Match.MatchString(tag.Name):
			d.Reason = "its name does not match"
		case tag.Left:
			d.Delete, d.Reason = true, "an earlier clean-up was interrupted that had taken its image away"
		case tag.Time.IsZero():
			d.Reason = "its age is not known"
		default:
			chosen++
			switch {
			case chosen <= r.KeepLast:
				d.Reason = fmt.Sprintf("it is number %d of the last %d", chosen, r.KeepLast)
			case age < r.OlderThan:
				d.Reason = fmt.Sprintf("it is %s old", days(age))
			default:
				d.Delete = true
				d.Reason = fmt.Sprintf("it is %s old", days(age))
				if r.KeepLast > 0 {
					d.Reason += fmt.Sprintf(", and not one of the last %d", r.KeepLast)
				}
			}
		}
		decisions = append(decisions, d)
	}
	return decisions
}

// days writes an age for people.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
