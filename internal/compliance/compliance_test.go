package compliance

import "testing"

// TestEveryControlSaysAllFour holds that no control claims without saying what it cannot show, and that each rests on something.
func TestEveryControlSaysAllFour(t *testing.T) {
	used := map[string]bool{}
	for _, f := range Frameworks() {
		seen := map[string]bool{}
		for _, c := range f.Controls {
			if c.ID == "" || c.Requires == "" || c.Proves == "" || c.Supports == "" || c.Attests == "" || c.Cannot == "" || seen[c.ID] {
				t.Errorf("%s %s is not whole: %+v", f.ID, c.ID, c)
			}
			seen[c.ID] = true
			if len(c.Evidence) == 0 {
				t.Errorf("%s %s rests on nothing", f.ID, c.ID)
			}
			for _, id := range c.Evidence {
				if Evidences[id] == "" {
					t.Errorf("%s %s rests on %q, which is no evidence", f.ID, c.ID, id)
				}
				used[id] = true
			}
		}
	}
	for id := range Evidences {
		if !used[id] {
			t.Errorf("nothing rests on %s", id)
		}
	}
}
