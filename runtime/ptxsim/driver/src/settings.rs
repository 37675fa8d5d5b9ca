//! What the variable `JET_STANDIN` says.

/// What the simulated machine is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `driver=12.4`: the CUDA version of the driver, here as 12040.
    pub driver: u32,
    /// `capability=9.0`: compute capability of the GPU.
    pub capability: (u32, u32),
    /// `memory=N`: bytes of the GPU.
    pub memory: u64,
    /// `devices=0`: how many GPUs there are, 0 or 1.
    pub devices: u32,
    /// `page=N`: bytes of a page of memory that is mapped page by page; 0 if the GPU maps none.
    pub page: u64,
    /// `jit=TEXT`: translating PTX fails with this report.
    pub jit: Option<String>,
    /// `launch=N`: the launch with this number, from 1, accesses memory that is not there.
    pub launch: Option<u64>,
    /// `report=1`: when the context is released, says on stderr what was done and what was not given back.
    pub report: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (driver, capability, memory) = (12040, (9, 0), 1 << 30);
        Settings { driver, capability, memory, devices: 1, page: 4096, jit: None, launch: None, report: false }
    }
}

impl Settings {
    /// Reads `key=value;..`.
    ///
    /// # Errors
    /// An unknown key or a value that is none.
    pub fn parse(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        for part in text.split(';').filter(|p| !p.is_empty()) {
            let bad = || format!("JET_STANDIN: found `{part}`, expected key=value");
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            let pair = || {
                let (major, minor) = value.split_once('.')?;
                Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
            };
            match key {
                "driver" => settings.driver = pair().map(|(major, minor)| major * 1000 + minor * 10).ok_or_else(bad)?,
                "capability" => settings.capability = pair().ok_or_else(bad)?,
                "memory" => settings.memory = value.parse().map_err(|_| bad())?,
                "devices" => settings.devices = value.parse::<u32>().map_err(|_| bad())?.min(1),
                "page" => {
                    settings.page = value
                        .parse()
                        .ok()
                        .filter(|n| *n == 0 || *n >= 256 && u64::is_power_of_two(*n))
                        .ok_or_else(bad)?
                }
                "jit" => settings.jit = Some(value.to_string()),
                "launch" => settings.launch = Some(value.parse().map_err(|_| bad())?),
                "report" => settings.report = value == "1",
                _ => return Err(bad()),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_read_and_nothing_else() {
        let settings =
            Settings::parse("driver=11.4;capability=7.5;memory=9;devices=0;page=512;jit=a, b=c;launch=3;report=1")
                .unwrap();
        let expected = Settings {
            driver: 11040,
            capability: (7, 5),
            memory: 9,
            devices: 0,
            page: 512,
            jit: Some("a, b=c".into()),
            launch: Some(3),
            report: true,
        };
        assert_eq!(settings, expected);
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        for bad in ["driver=12", "memory", "memory=x", "page=300", "other=1"] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
    }
}
