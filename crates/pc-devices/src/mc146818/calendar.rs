//! Seconds since 1970 to and from the fields of the clock, in the proleptic Gregorian calendar.

/// A time of day and date as the clock's registers split it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
    /// 0 is Sunday.
    pub(super) weekday: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    pub(super) year_of_century: u8,
    pub(super) century: u8,
}

impl Calendar {
    /// Splits `seconds`, which must lie in the years 1970 to 9999.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        let mut year = 1970 + days / 366;
        while days_before_year(year + 1) <= days {
            year += 1;
        }
        let mut of_year = days - days_before_year(year);
        let mut month = 1;
        while of_year >= days_in_month(year, month) {
            of_year -= days_in_month(year, month);
            month += 1;
        }
        let field = |value: i64| u8::try_from(value).expect("a calendar field fits a byte");
        Self {
            second: field(of_day % 60),
            minute: field(of_day / 60 % 60),
            hour: field(of_day / 3600),
            // 1970-01-01 was a Thursday.
            weekday: field((days + 4) % 7),
            day: field(of_year + 1),
            month: field(month),
            year_of_century: field(year % 100),
            century: field(year / 100),
        }
    }

    /// Joins the fields. A field out of its range counts as its nearest value, a year before 1970
    /// as 1970.
    pub(super) fn to_seconds(self) -> i64 {
        let century = i64::from(self.century.clamp(19, 99));
        let year = (century * 100 + i64::from(self.year_of_century.min(99))).max(1970);
        let month = i64::from(self.month.clamp(1, 12));
        let day = i64::from(self.day.max(1)).min(days_in_month(year, month));
        let before: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
        let days = days_before_year(year) + before + day - 1;
        days * 86_400
            + i64::from(self.hour.min(23)) * 3600
            + i64::from(self.minute.min(59)) * 60
            + i64::from(self.second.min(59))
    }
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before_year(year: i64) -> i64 {
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates_split_as_date_prints_them() {
        // `date -u -d @N`.
        for (seconds, fields) in [
            (0, [0, 0, 0, 4, 1, 1, 70, 19]),
            (951_827_696, [56, 34, 12, 2, 29, 2, 0, 20]),
            (4_102_444_799, [59, 59, 23, 4, 31, 12, 99, 20]),
        ] {
            let c = Calendar::from_seconds(seconds);
            let got = [
                c.second,
                c.minute,
                c.hour,
                c.weekday,
                c.day,
                c.month,
                c.year_of_century,
                c.century,
            ];
            assert_eq!(got, fields, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn splitting_and_joining_are_inverse(seconds in 0i64..=253_402_300_799) {
            prop_assert_eq!(Calendar::from_seconds(seconds).to_seconds(), seconds);
        }

        #[test]
        fn any_bytes_join_to_a_time(bytes: [u8; 8]) {
            let [second, minute, hour, weekday, day, month, year_of_century, century] = bytes;
            let time = Calendar { second, minute, hour, weekday, day, month, year_of_century, century };
            prop_assert!((0..=253_402_300_799).contains(&time.to_seconds()));
        }
    }
}
