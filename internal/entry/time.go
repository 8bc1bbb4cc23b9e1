package entry

import (
	"encoding/binary"
	"fmt"
	"time"
)

// MaxTime is the last timestamp of the format, 2261-12-31T23:59:59.999999999Z in Unix nanoseconds. The first is 0.
const MaxTime int64 = 9214646399999999999

const (
	secondsPerDay = 86400
	// The civil calendar is computed from 0000-03-01, so that a leap day is the last day of its year.
	daysBeforeEpoch = 719468
)

// FormatTime appends a timestamp, 30 bytes. It panics outside 0 to MaxTime: the writer's clock must be checked before.
func FormatTime(dst []byte, unixNano int64) []byte {
	var b [30]byte
	putTime(&b, unixNano)
	return append(dst, b[:]...)
}

func putTime(b *[30]byte, unixNano int64) {
	if unixNano < 0 || unixNano > MaxTime {
		panic("entry: timestamp outside 1970 to 2261")
	}
	seconds, nano := uint64(unixNano)/1e9, uint32(uint64(unixNano)%1e9)
	day, second := uint32(seconds/secondsPerDay), uint32(seconds%secondsPerDay)
	z := day + daysBeforeEpoch
	century := (4*z + 3) / 146097
	z -= 146097 * century / 4
	year := (4*z + 3) / 1461
	z -= 1461 * year / 4
	month := (5*z + 2) / 153
	z -= (153*month + 2) / 5
	year += 100 * century
	if month += 3; month > 12 {
		month -= 12
		year++
	}
	put2(b, 0, year/100)
	put2(b, 2, year%100)
	b[4] = '-'
	put2(b, 5, month)
	b[7] = '-'
	put2(b, 8, z+1)
	b[10] = 'T'
	put2(b, 11, second/3600)
	b[13] = ':'
	put2(b, 14, second/60%60)
	b[16] = ':'
	put2(b, 17, second%60)
	b[19] = '.'
	put2(b, 20, nano/1e7)
	put2(b, 22, nano/1e5%100)
	put2(b, 24, nano/1e3%100)
	put2(b, 26, nano/10%100)
	b[28] = byte('0' + nano%10)
	b[29] = 'Z'
}

func put2(b *[30]byte, i int, v uint32) {
	b[i] = byte('0' + v/10)
	b[i+1] = byte('0' + v%10)
}

// ParseTime reads a timestamp in its one spelling.
func ParseTime(b []byte) (int64, error) {
	ns, ok := scanTime(b)
	if !ok || len(b) != 30 {
		return 0, fault("", -1, timeWant)
	}
	return ns, nil
}

const timeWant = "want a timestamp YYYY-MM-DDThh:mm:ss.nnnnnnnnnZ of the years 1970 to 2261 with a date and time that exist"

// scanTime reads the timestamp that b begins with.
func scanTime(b []byte) (int64, bool) {
	if len(b) < 30 {
		return 0, false
	}
	// Each word minus its template leaves digits as 0 to 9 and separators as 0.
	w0 := binary.LittleEndian.Uint64(b) ^ 0x2d30302d30303030      // 0000-00-
	w1 := binary.LittleEndian.Uint64(b[8:]) ^ 0x30303a3030543030  // 00T00:00
	w2 := binary.LittleEndian.Uint64(b[16:]) ^ 0x303030302e30303a // :00.0000
	w3 := binary.LittleEndian.Uint64(b[22:]) ^ 0x5a30303030303030 // 0000000Z, two digits of it again
	bad := w0 | (w0 + ones*0x76) | w1 | (w1 + ones*0x76) | w2 | (w2 + ones*0x76) | w3 | (w3 + ones*0x76)
	separators := w0&0xff0000ff00000000 | w1&0x0000ff0000ff0000 | w2&0x00000000ff0000ff | w3&0xff00000000000000
	if bad&highs != 0 || separators != 0 {
		return 0, false
	}
	year := two(w0, 0)*100 + two(w0, 2)
	month, day := two(w0, 5), two(w1, 0)
	hour, minute, second := two(w1, 3), two(w1, 6), two(w2, 1)
	if year < 1970 || year > 2261 || !isDate(year, month, day) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	nano := two(w2, 4)*1e7 + two(w3, 0)*1e5 + two(w3, 2)*1e3 + two(w3, 4)*10 + uint32(w3>>48&15)
	seconds := int64(daysSince(year, month, day))*secondsPerDay + int64(hour*3600+minute*60+second)
	return seconds*1e9 + int64(nano), true
}

// two is the number of the decimal digits in bytes i and i+1 of w.
func two(w uint64, i int) uint32 {
	w >>= 8 * i
	return uint32(w&15)*10 + uint32(w>>8&15)
}

// isDate reports whether the day exists in the proleptic Gregorian calendar.
func isDate(year, month, day uint32) bool {
	if month-1 > 11 || day == 0 {
		return false
	}
	if day <= 28 {
		return true
	}
	if month == 2 {
		return day == 29 && year%4 == 0 && (year%100 != 0 || year%400 == 0)
	}
	return day <= 30+(month+month>>3)&1
}

// daysSince counts the days from 1970-01-01 to a date that is not before it.
func daysSince(year, month, day uint32) uint32 {
	if month < 3 {
		month += 12
		year--
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - daysBeforeEpoch
}

// appendTime appends t in quotes as an eventTime: UTC, and the fraction without trailing zeros.
func appendTime(dst []byte, t time.Time) ([]byte, *FieldError) {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return dst, fault("", -1, fmt.Sprintf("year %d; a time has the years 0000 to 9999", y))
	}
	return t.AppendFormat(dst, `"2006-01-02T15:04:05.999999999Z"`), nil
}

// eventTimeAt returns the length of the eventTime that b begins with, 0 if there is none.
func eventTimeAt(b []byte) int {
	const whole = len("0000-00-00T00:00:00")
	if len(b) <= whole || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0
	}
	digits := true
	num := func(i int) uint32 {
		hi, lo := b[i]-'0', b[i+1]-'0'
		digits = digits && hi <= 9 && lo <= 9
		return uint32(hi)*10 + uint32(lo)
	}
	year, month, day := num(0)*100+num(2), num(5), num(8)
	hour, minute, second := num(11), num(14), num(17)
	if !digits || !isDate(year, month, day) || hour > 23 || minute > 59 || second > 59 {
		return 0
	}
	p := whole
	if b[p] == '.' {
		for p++; p < len(b) && p <= whole+9 && b[p]-'0' <= 9; p++ {
		}
		if p == whole+1 || b[p-1] == '0' {
			return 0
		}
	}
	if p >= len(b) || b[p] != 'Z' {
		return 0
	}
	return p + 1
}

// ParseEventTime reads an eventTime in its one spelling.
func ParseEventTime(b []byte) (time.Time, error) {
	if n := eventTimeAt(b); n == 0 || n != len(b) {
		return time.Time{}, fault("", -1, eventTimeWant)
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return time.Time{}, fault("", -1, eventTimeWant)
	}
	return t, nil
}

const eventTimeWant = "want a time YYYY-MM-DDThh:mm:ss[.n]Z with at most nine digits that do not end in zero, and a date and time that exist"
